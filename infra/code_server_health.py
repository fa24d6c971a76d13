"""Whether Dagster's code server serves: `python -m infra.code_server_health PORT`.

What `dagster api grpc-health-check` asks, in a tenth of its CPU: that imports Dagster each time.
"""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT_SECONDS = 15.0


def main() -> None:
    """Exit with 0 when it serves, and otherwise with a line that says why not."""
    with grpc.insecure_channel(f"127.0.0.1:{int(sys.argv[1])}") as channel:
        try:
            answer = HealthStub(channel).Check(
                HealthCheckRequest(service="DagsterApi"), timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            sys.exit(f"the code server does not answer: {error.details()}")
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit("the code server does not serve")


if __name__ == "__main__":
    main()
