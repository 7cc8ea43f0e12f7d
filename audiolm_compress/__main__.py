"""``python -m audiolm_compress`` is the command ``audiolm-compress``."""

from audiolm_compress.cli import main

if __name__ == "__main__":
    main()
