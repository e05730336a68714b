"""Batched Meta-World: formulas and constants of Meta-World (MIT, see NOTICE), evaluated for all copies at once."""
