"""`python -m ftp`."""

from ftp.cli import main

if __name__ == "__main__":
    main()
