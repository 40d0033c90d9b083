"""The Agent User Interaction protocol, which CopilotKit, TanStack AI and others read. No provider speaks it."""
