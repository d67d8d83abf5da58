"""How far sweeps are, who runs them, and stopping them: from storage alone, so that it is instant, and works
from any machine that reaches the store.
"""
