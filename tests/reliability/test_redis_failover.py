"""A failover of the Redis that holds the log of changes, by which entries are lost: servers agree all the same."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import grpc
import pytest

from tests.catalog.redis.entries import LOG
from tests.redis.running import APPEND_ALWAYS, RedisCluster, RedisServer
from tests.reliability.conftest import own_folder
from tests.reliability.member import DIMENSION, RELEASE, Member, same_catalog
from tests.reliability.writing import Catalog, catalog_of
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1


def items(member: Member) -> Catalog:
    return catalog_of(member.own.serving, RELEASE, ["kept", "lost", "after", "late"])


def upsert(member: Member, item_id: str, value: float) -> None:
    catalog = v1.CatalogServiceStub(member.own.channel)
    vector = v1.Embedding(release=RELEASE, values=[value] + [0.0] * (DIMENSION - 1))
    change = v1.ItemChange(item=v1.Item(item_id=item_id), embedding=vector)
    assert not catalog.UpsertItems(v1.UpsertItemsRequest(changes=[change])).problems


def upsert_at_last(member: Member, item_id: str, value: float) -> None:
    """Upserts as often as the store of changes cannot be used."""

    def done() -> bool:
        try:
            upsert(member, item_id, value)
        except grpc.RpcError as error:
            assert str(error.details()).startswith("STORE_UNAVAILABLE: ")
            return False
        return True

    until(done)


def cut_off(replica: RedisServer, primary: RedisServer) -> None:
    """Lets a replica have what its primary has by now, and no more, while the Cluster takes it for well."""
    offset = primary.client.info("replication")["master_repl_offset"]
    until(lambda: replica.client.info("replication")["slave_repl_offset"] >= offset)
    replica.client.config_set("masteruser", "nobody")
    replica.client.config_set("masterauth", "nothing")
    primary.client.execute_command("CLIENT KILL TYPE replica")
    until(lambda: replica.client.info("replication")["master_link_status"] == "down")


@contextmanager
def watched(server: RedisServer) -> Iterator[list[str]]:
    """What a Redis executes meanwhile, the commands of scripts included."""
    commands: list[str] = []
    with server.client.monitor() as monitor:

        def watch() -> None:
            while "end of watch" not in (command := str(monitor.next_command()["command"])):
                commands.append(command)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield commands
        finally:
            server.client.echo("end of watch")
            thread.join(PATIENCE_S)


@pytest.mark.parametrize("replicas", [0, 1])
def test_servers_agree_after_a_failover_that_loses_changes(orthogonal: Path, tmp_path: Path, replicas: int) -> None:
    cluster = RedisCluster(tmp_path / "cluster", *APPEND_ALWAYS)
    releases = own_folder(orthogonal, tmp_path)
    options = ("--change-log-replicas", str(replicas))
    members = [Member(releases, tmp_path / name, cluster.nodes[0].url, *options) for name in ("one", "two", "late")]
    one, two, late = members
    try:
        for member in (one, two):
            member.start()
        upsert(one, "kept", 1.0)
        upsert(two, "kept", 2.0)
        primary, replica = cluster.pair_of(LOG)
        cut_off(replica, primary)
        # With a replica that must have them, changes that only the primary has are not acknowledged.
        refused = pytest.raises(grpc.RpcError, match="STORE_UNAVAILABLE") if replicas else nullcontext()
        for value in (3.0, 4.0):
            with refused:
                upsert(one, "lost", value)
        until(lambda: catalog_of(two.own.serving, RELEASE, ["lost"]) == {"lost": 4.0})

        # The replica takes over; the old primary comes back, with what is lost on its disk, and follows it.
        primary.kill()
        until(lambda: replica.client.info("replication")["role"] == "master")
        primary.start()
        until(lambda: primary.client.info("replication").get("master_link_status") == "up")
        with watched(replica) as commands:
            # As many as were lost, at the positions of those.
            upsert_at_last(two, "after", 5.0)
            upsert_at_last(one, "after", 6.0)
            until(lambda: items(one) == items(two) == {"kept": 2.0, "lost": None, "after": 6.0, "late": None})
        catalog = same_catalog([one, two])
        # No clock has a say: the new primary's may be behind that of the old one.
        appends = [command for command in commands if command.startswith("XADD")]
        assert appends and all(re.match(rf"XADD {re.escape(LOG)} \d+-0 ", command) for command in appends)
        assert not any(command.upper().startswith("TIME") for command in commands)

        late.start()
        upsert(late, "late", 7.0)
        assert same_catalog(members) == catalog
        assert items(late) == {"kept": 2.0, "lost": None, "after": 6.0, "late": 7.0}
        until(lambda: items(one) == items(two) == items(late))
    finally:
        for member in members:
            member.kill()
        cluster.close()
