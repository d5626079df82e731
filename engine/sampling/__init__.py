"""How the next token is chosen: what sequences ask for, by batch row, and the pass over a step's logits."""
