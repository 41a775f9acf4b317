//! The classes of OCSF that are used here, and its words for what an event
//! is worth.

/// A class.
#[derive(Clone, Copy)]
pub(super) enum Class {
    /// What fits no other.
    Base,
    /// The audit log itself.
    EventLogActivity,
    /// The policy, grants, the lockdown.
    EntityManagement,
    /// How well this machine is protected.
    DeviceConfigStateChange,
    /// The daemon and its witness, which come and go.
    ApplicationLifecycle,
    /// A request, as CloudTrail's are.
    ApiActivity,
    /// The daemon at its limits.
    ApplicationError,
}

impl Class {
    pub(super) fn uid(self) -> u32 {
        match self {
            Self::Base => 0,
            Self::EventLogActivity => 1008,
            Self::EntityManagement => 3004,
            Self::DeviceConfigStateChange => 5019,
            Self::ApplicationLifecycle => 6002,
            Self::ApiActivity => 6003,
            Self::ApplicationError => 6008,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "Base Event",
            Self::EventLogActivity => "Event Log Activity",
            Self::EntityManagement => "Entity Management",
            Self::DeviceConfigStateChange => "Device Config State Change",
            Self::ApplicationLifecycle => "Application Lifecycle",
            Self::ApiActivity => "API Activity",
            Self::ApplicationError => "Application Error",
        }
    }

    pub(super) fn category(self) -> u32 {
        self.uid() / 1000
    }

    pub(super) fn category_name(self) -> &'static str {
        match self {
            Self::Base => "Uncategorized",
            Self::EventLogActivity => "System Activity",
            Self::EntityManagement => "Identity & Access Management",
            Self::DeviceConfigStateChange => "Discovery",
            Self::ApplicationLifecycle | Self::ApiActivity | Self::ApplicationError => {
                "Application Activity"
            }
        }
    }
}

/// What was done, by the class's own list.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    pub(super) id: u32,
    pub(super) name: &'static str,
}

impl Activity {
    pub(super) const UNKNOWN: Self = Self::new(0, "Unknown");

    pub(super) const fn new(id: u32, name: &'static str) -> Self {
        Self { id, name }
    }

    /// What no list has.
    pub(super) const fn other(name: &'static str) -> Self {
        Self { id: 99, name }
    }

    /// As the class's list has it.
    pub(super) fn caption(self) -> &'static str {
        match self.id {
            99 => "Other",
            _ => self.name,
        }
    }
}

/// How much it matters.
#[derive(Clone, Copy)]
pub(super) enum Severity {
    Unknown,
    Informational,
    Low,
    Medium,
    High,
}

impl Severity {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Informational => 1,
            Self::Low => 2,
            Self::Medium => 3,
            Self::High => 4,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
        }
    }
}

/// Whether it came about.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    Success,
    Failure,
}

impl Outcome {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Success => 1,
            Self::Failure => 2,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Failure => "Failure",
        }
    }
}

/// What the firewall did.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Allowed,
    Denied,
    /// It let pass what it would have denied.
    Observed,
}

impl Action {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allowed => 1,
            Self::Denied => 2,
            Self::Observed => 3,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allowed => "Allowed",
            Self::Denied => "Denied",
            Self::Observed => "Observed",
        }
    }
}

/// What the client met with.
#[derive(Clone, Copy)]
pub(super) enum Disposition {
    Allowed,
    Blocked,
    /// The connection was closed without an answer.
    Dropped,
    NoAction,
    Logged,
    Rejected,
    Unauthorized,
    Error,
}

impl Disposition {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allowed => 1,
            Self::Blocked => 2,
            Self::Dropped => 6,
            Self::NoAction => 16,
            Self::Logged => 17,
            Self::Rejected => 25,
            Self::Unauthorized => 26,
            Self::Error => 27,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allowed => "Allowed",
            Self::Blocked => "Blocked",
            Self::Dropped => "Dropped",
            Self::NoAction => "No Action",
            Self::Logged => "Logged",
            Self::Rejected => "Rejected",
            Self::Unauthorized => "Unauthorized",
            Self::Error => "Error",
        }
    }
}
