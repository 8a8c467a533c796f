//! Which tokens have a blank between them: from what the grammar took each for.

use super::grammar::Rule;
use super::token::Token;
use pest::iterators::{Pair, Pairs};
use std::collections::BTreeMap;

/// What the grammar took a token for; nothing for a comment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Role {
    /// The token's index in the text.
    pub index: usize,
    /// Its rule.
    pub rule: Option<Rule>,
    /// The rule that it is a direct part of.
    pub parent: Option<Rule>,
    /// Part of a function's signature.
    pub header: bool,
}

/// Roles by the first byte of their tokens.
#[derive(Default)]
pub struct Roles(BTreeMap<usize, Role>);

impl Roles {
    /// Adds those of an item that starts at the byte `base`.
    pub fn add(&mut self, pairs: Pairs<Rule>, base: usize) {
        for pair in pairs {
            self.pair(pair, base, None, false);
        }
    }

    fn pair(&mut self, pair: Pair<Rule>, base: usize, parent: Option<Rule>, header: bool) {
        let (rule, start) = (pair.as_rule(), base + pair.as_span().start());
        let mut inner = pair.into_inner().peekable();
        if rule == Rule::number || inner.peek().is_none() {
            self.0.insert(start, Role { index: 0, rule: Some(rule), parent, header });
            return;
        }
        for part in inner {
            let in_header = header || (rule == Rule::function && !matches!(part.as_rule(), Rule::block | Rule::expression));
            self.pair(part, base, Some(rule), in_header);
        }
    }

    /// The token's role.
    pub fn of(&self, token: &Token) -> Role {
        self.0.get(&token.start).copied().unwrap_or_default()
    }
}

/// Whether a blank stands between two tokens of a line.
pub fn between(left: &Role, right: &Role) -> bool {
    let (Some(a), Some(b)) = (left.rule, right.rule) else { return true };
    let angle = |role: &Role| role.parent == Some(Rule::angle);
    // What stands close to what is before it.
    let hugs_left = match b {
        Rule::comma | Rule::end_of_line | Rule::close | Rule::close_square | Rule::colon | Rule::range | Rule::power => true,
        // `0 .2` asks for a part of 0, `0.2` is a number.
        Rule::dot => a != Rule::number,
        Rule::open => matches!(right.parent, Some(Rule::call | Rule::parameters | Rule::gradient)),
        Rule::open_square => matches!(right.parent, Some(Rule::subscripts | Rule::shape)),
        Rule::less | Rule::greater => angle(right),
        Rule::close_brace => a == Rule::open_brace,
        _ => false,
    };
    // What stands close to what is behind it.
    let hugs_right = match a {
        Rule::open | Rule::open_square | Rule::dot | Rule::range | Rule::power | Rule::negative => true,
        Rule::less => angle(left),
        _ => false,
    };
    !(hugs_left || hugs_right)
}
