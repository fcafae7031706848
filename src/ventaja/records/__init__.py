"""What was asked, said and judged: plain frozen values, and the files that carry them between stages."""

from ventaja.records.example import Example
from ventaja.records.files import read_groups, read_rollouts, write_groups
from ventaja.records.group import Finished, Group, Request
from ventaja.records.judgement import Fault, Judgement
from ventaja.records.messages import read_messages
from ventaja.records.prompt import Message, Prompt
from ventaja.records.ranking import Answer, Ranking
from ventaja.records.trajectory import Completion, Given, StopReason, Trajectory

__all__ = [
    "Answer",
    "Completion",
    "Example",
    "Fault",
    "Finished",
    "Given",
    "Group",
    "Judgement",
    "Message",
    "Prompt",
    "Ranking",
    "Request",
    "StopReason",
    "Trajectory",
    "read_groups",
    "read_messages",
    "read_rollouts",
    "write_groups",
]
