"""Corpora in the form of their usual downloads, as clips to be written into an annotation.

Each module tells the layout that it reads and where that is documented, and has one function ``offer``, which
goes through a folder and names everything in it: as a clip, or as missing with the reason.
"""
