//! How fast typical rules are compiled and evaluated, and how large their programs are:
//! `cargo run --profile fast -p cel --example speed`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cel::{Activation, Budget, Env, Program, from_schema};
use serde_json::json;

/// Counts what is allocated and not freed.
struct Counted;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(
    unsafe_code,
    reason = "an allocator can only be written so; this is a measuring program"
)]
// SAFETY: everything is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const RULES: [&str; 5] = [
    "self.replicas <= self.maxReplicas",
    "self.ports.all(p, p.number > 0 && p.number < 65536)",
    "self.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && self.name.size() < 63",
    "!has(oldSelf.class) || self.class == oldSelf.class",
    "quantity(self.limit).compareTo(quantity('4Gi')) <= 0",
];

fn main() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "maxReplicas": {"type": "integer"},
        "name": {"type": "string"}, "class": {"type": "string"}, "limit": {"type": "string"},
        "ports": {"type": "array", "items": {"type": "object", "properties": {"number": {"type": "integer"}}}}
    }});
    let object = json!({
        "replicas": 3, "maxReplicas": 5, "name": "farm-shop", "class": "fast", "limit": "2Gi",
        "ports": [{"number": 80}, {"number": 443}, {"number": 8080}]
    });
    let Some(decl) = from_schema(&schema, "self", false) else {
        return;
    };
    let env = Env::new().variable("self", decl.clone()).variable("oldSelf", decl);
    let activation = Activation::new().json("self", &object).json("oldSelf", &object);
    for rule in RULES {
        // Once before, for what is read only once.
        drop(Program::compile(&env, rule));
        let before = LIVE.load(Ordering::Relaxed);
        let Ok(program) = Program::compile(&env, rule) else {
            continue;
        };
        let size = LIVE.load(Ordering::Relaxed) - before + size_of::<Program>();
        let compile = time(2_000, || drop(black_box(Program::compile(&env, rule))));
        let evaluate = time(200_000, || {
            let result = program.evaluate(&activation, &mut Budget::default());
            drop(black_box(result));
        });
        println!("{evaluate:6} ns  compile {compile:6} ns  {size:6} bytes  {rule}");
    }
}

fn time(rounds: u32, mut work: impl FnMut()) -> u128 {
    let start = Instant::now();
    for _ in 0..rounds {
        work();
    }
    start.elapsed().as_nanos() / u128::from(rounds)
}
