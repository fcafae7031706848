"""What was asked, said and judged: plain frozen values, and the files that carry them between stages."""

from ventaja.records.conversation import Completion, Group, Message, Prompt, StopReason
from ventaja.records.example import Example
from ventaja.records.files import read_groups, read_rollouts, write_groups
from ventaja.records.judgement import Fault, Judgement

__all__ = [
    "Completion",
    "Example",
    "Fault",
    "Group",
    "Judgement",
    "Message",
    "Prompt",
    "StopReason",
    "read_groups",
    "read_rollouts",
    "write_groups",
]
