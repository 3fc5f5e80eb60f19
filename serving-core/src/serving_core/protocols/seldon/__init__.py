"""The prediction API of Seldon Server 1.4: classifiers over REST and gRPC."""
