"""replace_text.py FILE OLD NEW: replace a NUL-terminated text by a shorter one, in place."""

import sys


def main():
    path, old, new = sys.argv[1:]
    old, new = old.encode() + b"\0", new.encode() + b"\0"
    with open(path, "rb") as file:
        data = file.read()
    data = data.replace(b"\0" + old, b"\0" + new.ljust(len(old), b"\0"))
    with open(path, "wb") as file:
        file.write(data)


main()
