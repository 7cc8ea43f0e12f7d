"""Annotations and audio files in, examples out."""
