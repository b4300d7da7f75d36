"""The exit codes of the command line: those that servers and dealer end with too."""

from proto.exit_codes import TABLE, ExitCode, exit_code_of

__all__ = ["TABLE", "ExitCode", "exit_code_of"]
