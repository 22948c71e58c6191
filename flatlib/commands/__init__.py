"""The commands of `flatlib`: each file adds its own to the parser. Heavy imports wait until a command runs."""
