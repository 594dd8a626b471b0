"""Formulas for the parameters of base models, and other names for them: what several families share."""
