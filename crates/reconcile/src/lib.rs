//! The form of every control loop: View, Plan, Action.
