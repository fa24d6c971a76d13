"""What can be wrong with a broker or a topic, in words that say what to do."""

from kafka.errors import UnsupportedCodecError

from credit_risk_dagster.errors import PlatformError


class BrokerUnavailable(PlatformError):
    """The broker does not answer, or refuses the client."""

    def __init__(self, bootstrap_servers: str, cause: BaseException) -> None:
        reason = " ".join(str(cause).split()) or type(cause).__name__
        super().__init__(f"Kafka broker at {bootstrap_servers} does not answer: {reason}")


class TopicMissing(PlatformError):
    """The topic does not exist."""


class TopicReplaced(PlatformError):
    """The topic is not the one whose offsets were committed: recreated, truncated, or elsewhere."""


class UnreadableBatch(PlatformError):
    """The broker has a batch of records that this process cannot take apart."""

    def __init__(self, topic: str, partition: int, offset: int, cause: BaseException) -> None:
        self.partition = partition
        reason = " ".join(str(cause).split()) or type(cause).__name__
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
