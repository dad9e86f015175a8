"""Training algorithms by name; each is one small file."""

from collections.abc import Callable
from typing import Any

from satbench.core import plugins
from satbench.methods.adr import ADR
from satbench.methods.aft import AFT
from satbench.methods.awp import awp
from satbench.methods.base import Method
from satbench.methods.fgsm_rs import FGSMRS
from satbench.methods.free import Free
from satbench.methods.gradalign import GradAlign
from satbench.methods.mart import MART
from satbench.methods.moat import MOAT
from satbench.methods.n_fgsm import NFGSM
from satbench.methods.pgd_at import PGDAT
from satbench.methods.sglr import SGLR
from satbench.methods.simclr import SimCLR
from satbench.methods.ssl_at import SSLAT
from satbench.methods.standard import Standard
from satbench.methods.temporal_ensembling import TemporalEnsembling
from satbench.methods.trades import TRADES

METHODS: dict[str, Callable[..., Method]] = {
    "standard": Standard,
    "pgd_at": PGDAT,
    "trades": TRADES,
    "mart": MART,
    "awp": awp,
    "fgsm_rs": FGSMRS,
    "n_fgsm": NFGSM,
    "gradalign": GradAlign,
    "free": Free,
    "moat": MOAT,
    "aft": AFT,
    "sglr": SGLR,
    "te": TemporalEnsembling,
    "adr": ADR,
    "simclr": SimCLR,
    "ssl_at": SSLAT,
}


def make_method(name: str, params: dict[str, Any]) -> Method:
    """The method of a name of `METHODS` or `package.module:callable`, with these parameters.

    Raises `BadInput` for an unknown name or parameter, and for code of the user's own that gives no `Method`.
    """
    method: Method = plugins.make(METHODS, name, "method", Method, **params)
    return method
