"""What came out: judged by the engine that will run it, registered with its origins."""
