"""add_section.py IN NAME TEXT OUT: append a custom section that holds TEXT as a string."""

import sys


def leb(value):
    """The unsigned LEB128 form of a number."""
    encoded = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        encoded.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def string(text):
    """A string as WebAssembly modules hold it."""
    data = text.encode()
    return leb(len(data)) + data


def main():
    source, name, text, target = sys.argv[1:]
    with open(source, "rb") as file:
        module = file.read()
    body = string(name) + string(text)
    with open(target, "wb") as file:
        file.write(module + b"\0" + leb(len(body)) + body)


main()
