"""Room on the disk for metrics: processes share them in mapped files, and a full disk would end who writes there."""

import os
from pathlib import Path

import structlog

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
BLOCK_BYTES = 512
"""What `st_blocks` counts (stat(2))."""

log = structlog.get_logger()


def reserve_metric_files() -> int:
    """Have the disk keep what this process's metric files are long; how many lacked it.

    They are mapped and begin as holes: the first write to a page that the disk has no room for is a SIGBUS. Asked
    again and again it costs one look at each of a handful of files; they only grow where a new label appears.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or not hasattr(os, "posix_fallocate"):
        return 0
    reserved = 0
    for path in Path(folder).glob(f"*_{os.getpid()}.db"):
        try:
            found = path.stat()
            if found.st_blocks * BLOCK_BYTES >= found.st_size:
                continue
            descriptor = os.open(path, os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, 0, found.st_size)
            finally:
                os.close(descriptor)
            reserved += 1
        except OSError as error:
            log.warning("metrics.not_reserved", error=error.strerror)
    return reserved
