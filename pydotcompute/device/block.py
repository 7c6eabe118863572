"""Where a step runs among the threads that share its message.

On a GPU an instance of a compiled ring kernel is a block of threads, which all run the step on the same message.
Everywhere else one thread does the work of them all, and so code that is written for many runs there too::

    for i in range(lane(), len(state.total), width()):
        state.total[i] += msg.values[i]
    barrier()
"""


def lane() -> int:
    """The number of the thread that runs this, from 0 to `width() - 1`. Always 0 where there is one."""
    return 0


def width() -> int:
    """How many threads share the message: the threads of a GPU's block, 1 elsewhere."""
    return 1


def barrier() -> None:
    """Wait until all threads of the block have come here, and see what they have written before.

    All threads must come to the same barrier: none belongs below an `if` that is true for some of them only. Where
    there is one thread it does nothing.
    """
