//! The incremental compiler where ids are so scarce that classes, rules and tables displace each other all the time.

use crate::{
    Event,
    common::{
        first_seed,
        random::{self, Rng},
        rig::{Rig, mutation},
    },
    events,
    ids::crowd,
};

#[test]
fn rows_stay_right_while_ids_go_from_one_key_to_another() {
    crowd::set(true);
    for seed in first_seed()..first_seed() + 25 {
        let rng = &mut Rng(seed ^ 0xC0);
        let world = random::world(rng);
        let mut rig = Rig::new(&world);
        rig.apply(events(world).collect());
        rig.number(rng, 100);
        rig.check(&format!("AXONEME_SEED={seed} start"));
        for step in 0..20 {
            let batch: Vec<Event> = (0..=rng.below(2)).map(|_| mutation(&rig.compiler.world(), rng)).collect();
            let what = format!("AXONEME_SEED={seed} step {step} {batch:#?}");
            rig.apply(batch);
            rig.number(rng, 80);
            rig.check(&what);
        }
    }
    crowd::set(false);
}
