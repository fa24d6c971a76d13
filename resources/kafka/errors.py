"""What can be wrong with a broker or a topic, in words that say what to do."""

import re
from collections.abc import Sequence

from kafka.errors import (
    AuthorizationError,
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    LogTruncationError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings


class BrokerUnavailable(PlatformError):
    """The broker does not answer, or refuses the client."""

    def __init__(
        self, bootstrap_servers: str, cause: BaseException | str, *, answers: bool = False
    ) -> None:
        reason = cause if isinstance(cause, str) else in_words(cause)
        state = "answers, but" if answers else "does not answer:"
        super().__init__(f"Kafka broker at {bootstrap_servers} {state} {reason}")


class BrokerRefused(PlatformError):
    """The broker answers, and does not give what is asked: sign-in, encryption, or rights."""


def in_words(error: BaseException) -> str:
    """An error of the client in a few words, without the exchange that it quotes."""
    if isinstance(error, NodeNotReadyError):
        return "none of the cluster's brokers can be reached; they are tried again"
    text = " ".join(str(error).split())
    if isinstance(error, BrokerResponseError) and ("Response" in text or not error.args):
        told = re.search(r"error_message='([^']+)'|error_message=\"([^\"]+)\"", text)
        reason = next(filter(None, told.groups()), "") if told else type(error).description
        return f"{type(error).__name__.removesuffix('Error')}: {' '.join(reason.split())}"
    return text or type(error).__name__


def refused(error: BaseException, settings: KafkaSettings) -> BrokerRefused | None:
    """What an error of the broker says of rights; None when it is about something else."""
    who = f"user {settings.sasl_username!r}" if settings.sasl_username else "whoever signs in so"
    at = f"Kafka broker at {settings.bootstrap_servers} answers, but {who} may not"
    if isinstance(error, TopicAuthorizationFailedError):
        return BrokerRefused(
            f"{at} use topic {settings.topic}: it needs the ACLs Describe and Read (to produce: "
            "Write) on the topic"
        )
    if isinstance(error, ClusterAuthorizationFailedError):
        return BrokerRefused(f"{at} do that on the cluster: it needs an ACL on the cluster")
    if isinstance(error, AuthorizationError):
        return BrokerRefused(f"{at} do that: {in_words(error)}")
    return None


class TopicMissing(PlatformError):
    """The topic does not exist."""


class TopicReplaced(PlatformError):
    """The topic is not the one whose offsets were committed: recreated, truncated, or elsewhere.

    Attributes:
        incident: the same for as long as it lasts; the message has offsets that move.
    """

    def __init__(self, message: str, incident: str = "") -> None:
        super().__init__(message)
        self.incident = incident or message


def changed(topic: str, before: tuple[str, str | None], now: tuple[str, str | None]) -> str:
    """The message for a topic that became another one, each by cluster id and topic id."""
    was, became = (
        f"cluster {cluster_id} topic id {topic_id}" for cluster_id, topic_id in (before, now)
    )
    return f"topic {topic} changed under the run: {was} is now {became}"


def diverged(topic: str, error: LogTruncationError) -> str:
    """The message for a topic whose brokers lost records that they had given away."""
    at = "; ".join(
        f"partition {tp.partition} " + (f"from offset {found.offset} on" if found else "somewhere")
        for tp, found in sorted(error.divergent_offsets.items())
    )
    return (
        f"topic {topic} lost records that were read of it ({at}): a replica that was behind was "
        "elected (unclean.leader.election.enable), or the log was cut. Nothing of this batch was "
        "committed. Compare `credit-risk status` with the topic; when what is committed is not "
        "there any more, `credit-risk topic new-epoch` starts over with the topic as it is now"
    )


class UnreadableBatch(PlatformError):
    """The broker has a batch of records that this process cannot take apart."""

    def __init__(self, topic: str, partition: int, offset: int, cause: BaseException) -> None:
        self.partition = partition
        reason = in_words(cause)
        fix = (
            "install what pyproject.toml asks for (`make install`)"
            if isinstance(cause, UnsupportedCodecError)
            else "when it is damaged on every replica, delete the records up to it "
            "(`kafka-delete-records.sh`): what goes with them is recorded as lost"
        )
        super().__init__(
            f"topic {topic} partition {partition}: the batch at offset {offset} cannot be read: "
            f"{reason}. Nothing was skipped; {fix}"
        )


def truncated(topic: str, partition: int, committed: int, end: int) -> str:
    """The message for a topic that ends before what was committed of it."""
    return (
        f"topic {topic} partition {partition} ends at offset {end}, before the committed offset "
        f"{committed}: it was recreated or truncated. Nothing was skipped. When that is intended, "
        "`credit-risk topic new-epoch` starts over with the topic as it is now"
    )


def shrunk(topic: str, missing: Sequence[int]) -> str:
    """The message for a topic that has partitions no more of which something was committed."""
    return (
        f"topic {topic} has no partitions {[*missing]} any more: it was recreated with fewer. When "
        "that is intended, `credit-risk topic new-epoch` starts over"
    )
