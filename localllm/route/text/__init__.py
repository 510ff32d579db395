"""What a prompt says about itself without a language model: words, cues, domains. numpy only."""
