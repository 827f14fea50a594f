//! SPDY and WebSocket stream protocols of exec, attach and port-forward.
