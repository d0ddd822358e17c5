"""Teach a language model what things cost."""

import logging

# bitsandbytes says as it is imported, by whichever module, that a faster path for packed 4-bit
# weights is missing; they are never packed here (pricer.model.base)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
