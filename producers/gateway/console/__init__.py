"""The console: one page for operators, with what it shows and what it can ask for."""
