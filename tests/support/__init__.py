"""What tests of several folders share: real servers, processes to start and kill, waiting for conditions."""
