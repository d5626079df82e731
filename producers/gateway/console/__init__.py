"""The console: one page for operators, and what it shows and asks for."""
