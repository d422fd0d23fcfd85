//! Constraints that need no grammar.
#![allow(dead_code)] // Every test uses a part of it.

use osprey::engine::Constraint;
use osprey::error::Result;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One of a few tokens, always.
#[derive(Debug, Clone)]
pub struct Few(Vec<u32>);

impl Few {
    pub fn new(ids: &[u32]) -> Few {
        Few(mask(ids.iter().copied()))
    }
}

impl Constraint for Few {
    fn allowed(&mut self) -> Result<&[u32]> {
        Ok(&self.0)
    }

    fn take(&mut self, id: u32) -> Result<()> {
        assert!(self.0[id as usize / 32] >> (id % 32) & 1 == 1, "{id} was not allowed");
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Tokens below 1000 of a remainder by 7 that all tokens before have a part in.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    sum: u32,
    mask: Vec<u32>,
}

impl Turns {
    pub fn follows(ids: &[u32]) -> bool {
        let mut sum = 0;
        ids.iter().all(|&id| {
            let fits = id < 1000 && id % 7 == sum % 7;
            sum += id + 1;
            fits
        })
    }
}

impl Constraint for Turns {
    fn allowed(&mut self) -> Result<&[u32]> {
        self.mask = mask((self.sum % 7..1000).step_by(7));
        Ok(&self.mask)
    }

    fn take(&mut self, id: u32) -> Result<()> {
        self.sum += id + 1;
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// As [`Turns`], but it does not know what may come next before it is told, or for five seconds.
#[derive(Debug, Clone)]
pub struct Told {
    turns: Turns,
    knows: bool,
    tell: Arc<Mutex<Receiver<()>>>,
}

impl Told {
    pub fn new(tell: Receiver<()>) -> Told {
        Told { turns: Turns::default(), knows: false, tell: Arc::new(Mutex::new(tell)) }
    }
}

impl Constraint for Told {
    fn allowed(&mut self) -> Result<&[u32]> {
        if !self.knows {
            let _ = self.tell.lock().unwrap().recv_timeout(Duration::from_secs(5));
        }
        self.knows = true;
        self.turns.allowed()
    }

    fn take(&mut self, id: u32) -> Result<()> {
        self.knows = false;
        self.turns.take(id)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// Allows a token and panics behind it.
#[derive(Debug)]
pub struct Broken;

impl Constraint for Broken {
    fn allowed(&mut self) -> Result<&[u32]> {
        Ok(&[2])
    }

    fn take(&mut self, _: u32) -> Result<()> {
        panic!("a constraint that panics, on purpose")
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Broken)
    }
}

fn mask(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut words = Vec::new();
    for id in ids {
        let word = id as usize / 32;
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << (id % 32);
    }
    words
}
