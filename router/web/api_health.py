"""Serve `/v1` for endpoints, incidents and failovers."""

from router.switchboard import NotFound
from router.web import models_health as models
from router.web.models_people import Nothing
from router.web.routes import Call


async def endpoints(call: Call[Nothing, Nothing]) -> models.Endpoints:
    """All of them, with status and reason, and whether moves are frozen."""
    frozen = await call.switchboard.frozen()
    return models.Endpoints(
        items=tuple(models.Endpoint.of(state) for state in await call.switchboard.endpoints()),
        moves_frozen=models.Frozen.of(frozen) if frozen is not None else None,
    )


async def endpoint(call: Call[Nothing, Nothing]) -> models.Endpoint:
    """One of them."""
    wanted = f"{call.path['channel']}/{call.path['name']}"
    found = next((state for state in await call.switchboard.endpoints() if state.id == wanted), None)
    if found is None:
        raise NotFound("unknown_endpoint", "There is no such endpoint.")
    return models.Endpoint.of(found)


async def incidents(call: Call[Nothing, models.IncidentQuery]) -> models.Incidents:
    """The newest first."""
    found = await call.switchboard.incidents(open_only=call.query.open_only, limit=call.query.limit)
    return models.Incidents(items=tuple(models.Incident.of(incident) for incident in found))


async def acknowledge_incident(call: Call[Nothing, Nothing]) -> models.Incident:
    """Say that somebody looks after it."""
    done = await call.switchboard.acknowledge_incident(call.path["incident_id"], call.key.name)
    return models.Incident.of(done)


async def failovers(call: Call[Nothing, models.FailoverQuery]) -> models.Failovers:
    """Forced failovers."""
    found = await call.switchboard.failovers(active_only=call.query.active_only)
    return models.Failovers(items=tuple(models.Failover.of(failover) for failover in found))


async def start_failover(call: Call[models.NewFailover, Nothing]) -> models.FailoverAnswer:
    """Preview it (`dry_run`), or start it."""
    body = call.body
    if body.dry_run:
        preview = await call.switchboard.preview_failover(scope=body.scope_ids, target=body.target_id)
        return models.FailoverAnswer(failover=None, preview=models.Preview.of(preview))
    started = await call.switchboard.start_failover(
        scope=body.scope_ids,
        target=body.target_id,
        who=call.key.name,
        why=body.why.strip(),
        expires_in_s=body.expires_in_s,
    )
    shown = models.Failover.of(started)
    return models.FailoverAnswer(failover=shown, preview=shown.preview)


async def stop_failover(call: Call[Nothing, Nothing]) -> models.Failover:
    """End it now; health's view holds again."""
    return models.Failover.of(await call.switchboard.stop_failover(call.path["failover_id"], call.key.name))
