"""How an estimate becomes a step."""

from foretune.updates.adam import Adam
from foretune.updates.adamu import AdaMU
from foretune.updates.conservative import Conservative
from foretune.updates.heavy_ball import HeavyBall
from foretune.updates.momentum import Momentum
from foretune.updates.msign import MSign
from foretune.updates.muon import Muon
from foretune.updates.sgd import SGD
from foretune.updates.sign import Sign

__all__ = ["SGD", "AdaMU", "Adam", "Conservative", "HeavyBall", "MSign", "Momentum", "Muon", "Sign"]
