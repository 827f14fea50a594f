//! Values that every object shares: names, quantities, selectors, metadata, Status.
