"""The process in which schemas of strangers are compiled and applied (``python -m shared.schema_process``).

Reads one job per line and writes one verdict per line, until its input ends. The kernel ends it (SIGPROF) in the midst of a
job that takes more processor time than the job allows; a stack or memory that ran out ends it, too. ``shared.examiner``
starts it, and a new one when it is gone.
"""

import os
import resource
import signal
import sys

import msgspec

from shared.core.schemas import compile_fault, value_fault

MEMORY_BYTES = 1 << 30


class Job(msgspec.Struct):
    """*schemas* to be compiled, with one verdict for each; or one of them to hold *value* (JSON) against."""

    schemas: list[str]
    limit_s: float
    """Of processor time, for all of it."""
    value: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        job = _decode(line)
        signal.setitimer(signal.ITIMER_PROF, job.limit_s)  # SIGPROF is left to the kernel, which ends the process
        try:
            for schema in job.schemas:
                verdict = compile_fault(schema) if job.value is None else value_fault(schema, job.value)
                sys.stdout.buffer.write(_encode(verdict) + b"\n")
                sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody listens any more
            return
        except BaseException:  # noqa: BLE001  # a panic of the library, or no memory: whoever waits sees the end
            os.abort()
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
