"""The command `titans-seq` from a checkout: python cli.py ..."""

from titans_seq.cli import main

if __name__ == "__main__":
    main()
