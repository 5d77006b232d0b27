"""The dtypes that there is a choice of."""

from typing import Literal


Dtype = Literal["float32", "bfloat16"]
