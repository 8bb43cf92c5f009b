"""Ticket exports to conversations."""

from __future__ import annotations

from typing import Any

import pytest

from ftp.testing import assert_component_ok

TICKET: dict[str, Any] = {
    "ticket": 4711,
    "subject": "No invoice",
    "events": [
        {"author": "customer", "body": "Where is the invoice for May?"},
        {"author": "customer", "body": "It was due on Monday. "},
        {"author": "agent", "body": "Which address do you use?"},
        {"author": "customer", "body": "billing@example.com"},
    ],
    "resolution": "I have sent it again.",
}


def test_it_is_a_sound_component() -> None:
    from ftp_acme_evals.tickets import Tickets

    assert_component_ok(Tickets, TICKET, {**TICKET, "ticket": "A-1", "events": TICKET["events"][:1]})
    assert_component_ok(Tickets, TICKET, system="You work for Acme.")


def test_a_ticket_becomes_a_conversation() -> None:
    from ftp_acme_evals.tickets import Tickets

    example = Tickets().format(TICKET)
    assert [(message.role, message.content) for message in example.messages] == [
        ("user", "No invoice\n\nWhere is the invoice for May?\n\nIt was due on Monday."),
        ("assistant", "Which address do you use?"),
        ("user", "billing@example.com"),
        ("assistant", "I have sent it again."),
    ]
    assert Tickets(system="Be brief.").format(TICKET).messages[0].role == "system"


def test_the_resolution_goes_on_where_the_agent_spoke_last() -> None:
    from ftp_acme_evals.tickets import Tickets

    example = Tickets().format({**TICKET, "events": TICKET["events"][:3]})
    assert example.reference == "Which address do you use?\n\nI have sent it again."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ticket": None}, "'ticket': a number or text is needed: the ticket's id"),
        ({"ticket": True}, "'ticket': a number or text is needed: the ticket's id"),
        ({"events": []}, "'events': ticket 4711: a list of at least one event is needed"),
        ({"events": ["Hello"]}, "'events' 1: ticket 4711: an object with author and body is needed"),
        (
            {"events": [{"author": "bot", "body": "Hi"}]},
            "'events' 1: ticket 4711: the author is 'bot'; known are customer, agent",
        ),
        (
            {"events": [TICKET["events"][0], {"author": "agent", "body": " "}]},
            "'events' 2: ticket 4711: body must be text that is not empty",
        ),
        (
            {"events": [{"author": "agent", "body": "Hello"}]},
            "'events' 1: ticket 4711: begins with the agent, so there is no question",
        ),
        ({"subject": 3}, "'subject': ticket 4711: subject must be text that is not empty"),
        ({"resolution": ""}, "'resolution': ticket 4711: resolution must be text that is not empty"),
    ],
)
def test_a_bad_row_says_where_and_why(change: dict[str, Any], message: str) -> None:
    from ftp_acme_evals.tickets import Tickets

    import ftp

    with pytest.raises(ftp.RowError) as raised:
        Tickets().format({**TICKET, **change})
    assert str(raised.value) == message
