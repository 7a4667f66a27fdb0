"""The domain of Aforo and the stores it lives in. Nothing here imports api, worker or ops."""
