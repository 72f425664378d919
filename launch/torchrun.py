"""torchrun, which ends with the status of the process that failed and one line about it.

    python -m launch.torchrun --standalone --nproc-per-node=2 -m train.run FILE

Takes torchrun's own options (`headlab launch` gives it the processes as commands, with
--no-python). torchrun itself ends with status 1 whatever happened, after a
traceback of itself and a table, between which the message of the process that failed is lost.
"""

from __future__ import annotations

import logging
import sys


def main(words: list[str]) -> None:
    """Run torchrun; its status is that of the first process that failed, as a shell gives it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable(logging.ERROR)  # of torchrun only: it logs each signal that it sends
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f"process {rank} of the run ended with status {status}", file=sys.stderr, flush=True)
        raise SystemExit(status) from None
    except SignalException as stop:
        raise SystemExit(128 + stop.sigval) from None


if __name__ == "__main__":
    main(sys.argv[1:])
