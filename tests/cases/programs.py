"""What the cases' scripts share: a program that is run, and what it says."""
import subprocess


def runner(program):
    """run(arguments ..., code=0): stdout and stderr as one text; fails where the program ends with another code."""
    def run(*arguments, code=0, **more):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, **more)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{said}"
        return said
    return run


def says(said, *wanted):
    for text in wanted:
        assert text in said, f"{text!r} is not in:\n{said}"
    return said
