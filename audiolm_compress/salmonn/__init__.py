"""The model family: Whisper and BEATs encoders, window-level Q-Former, an LLM; loading and saving."""
