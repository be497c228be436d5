"""The NBD server: its protocol by hand, clients that mean harm, and the clients that people use."""
