"""Dark frames → bright ones: classical and learned enhancers, their model file, fitting, applying them to a store."""
