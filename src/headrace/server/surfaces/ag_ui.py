"""`POST /api/ag-ui`: an AG-UI run, for CopilotKit, TanStack AI and other front ends that speak it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.server.surfaces.docs import path_item
from headrace.server.surfaces.endpoint import SurfaceEndpoint


class AGUI(SurfaceEndpoint):
    path = "/api/ag-ui"
    surface_name = "ag_ui"
    opens_at_once = True
    docs = path_item("ag-ui", "AG UI Run", "One run of an agent, as AG-UI events.")

    def model(self, body: Mapping[str, Any]) -> str | None:
        """The protocol has no model of its own: it is among the properties that a front end forwards."""
        forwarded = body.get("forwardedProps")
        return super().model(forwarded if isinstance(forwarded, dict) else {})
