"""Texts in, numbers out: word error rate, CIDEr-D, SPIDEr and how sure they are."""
