"""From the words of a command line and YAML files to validated dataclasses, or an error that names the key. No torch."""
