"""Types that hold secrets are not pickled: a pickle is a plain copy that ends up in caches, queues and crash reports."""

from typing import NoReturn, SupportsIndex


class Unpicklable:
    """Mixed into every type that holds a secret. `copy` goes through the same door, so it is refused too."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets and is not pickled or copied; pass the object itself on")
