//! Expressions of the plan: a small tree of our own, lowered to physical expressions in the worker.

use super::types::{DataType, TypeKind};

/// A scalar expression over the columns of one input row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Expr {
    #[prost(oneof = "Node", tags = "1, 2, 3, 4, 5, 6")]
    pub node: Option<Node>,
}

/// What an expression is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Node {
    /// Index of an input column.
    #[prost(uint32, tag = "1")]
    Column(u32),
    #[prost(message, tag = "2")]
    Literal(Literal),
    #[prost(message, tag = "3")]
    Call(Call),
    #[prost(message, tag = "4")]
    Cast(Box<Cast>),
    #[prost(message, tag = "5")]
    Case(Box<Case>),
    #[prost(message, tag = "6")]
    Field(Box<FieldAccess>),
}

/// A constant.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Literal {
    #[prost(message, optional, tag = "1")]
    pub data_type: Option<DataType>,
    /// Unset means NULL.
    #[prost(oneof = "Value", tags = "2, 3, 4, 5, 6, 7")]
    pub value: Option<Value>,
}

/// The value of a constant.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    #[prost(bool, tag = "2")]
    Boolean(bool),
    /// Integers, dates, times, and timestamps in the unit of their type.
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(string, tag = "5")]
    String(String),
    #[prost(bytes = "vec", tag = "6")]
    Bytes(Vec<u8>),
    /// The unscaled value of a DECIMAL, 16 bytes big-endian.
    #[prost(bytes = "vec", tag = "7")]
    Decimal(Vec<u8>),
}

/// A function or operator, by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(string, tag = "1")]
    pub function: String,
    #[prost(message, repeated, tag = "2")]
    pub arguments: Vec<Expr>,
}

/// Conversion to another type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cast {
    #[prost(message, optional, boxed, tag = "1")]
    pub expr: Option<Box<Expr>>,
    #[prost(message, optional, tag = "2")]
    pub to: Option<DataType>,
    /// NULL instead of an error when the value does not fit.
    #[prost(bool, tag = "3")]
    pub is_try: bool,
}

/// CASE, with or without an operand.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Case {
    #[prost(message, optional, boxed, tag = "1")]
    pub operand: Option<Box<Expr>>,
    #[prost(message, repeated, tag = "2")]
    pub branches: Vec<Branch>,
    #[prost(message, optional, boxed, tag = "3")]
    pub otherwise: Option<Box<Expr>>,
}

/// WHEN … THEN … of a CASE.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Branch {
    #[prost(message, optional, tag = "1")]
    pub when: Option<Expr>,
    #[prost(message, optional, tag = "2")]
    pub then: Option<Expr>,
}

/// A field of a ROW.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FieldAccess {
    #[prost(message, optional, boxed, tag = "1")]
    pub expr: Option<Box<Expr>>,
    #[prost(string, tag = "2")]
    pub field: String,
}

/// Names of the operators that [`Call`] spells as functions. Scalar functions use their SQL name in lower case.
pub mod function {
    /// They ask the clock, and give another value at another time.
    pub const CLOCKS: [&str; 9] = [
        "current_timestamp",
        "current_row_timestamp",
        "now",
        "proctime",
        "localtimestamp",
        "current_date",
        "current_time",
        "localtime",
        "unix_seconds",
    ];
    /// They give another value with each row.
    pub const CHANCES: [&str; 3] = ["uuid", "rand", "rand_integer"];
    pub const AND: &str = "and";
    pub const OR: &str = "or";
    pub const NOT: &str = "not";
    pub const NEGATE: &str = "negate";
    pub const IS_NULL: &str = "is_null";
    pub const IS_NOT_NULL: &str = "is_not_null";
    pub const IS_DISTINCT_FROM: &str = "is_distinct_from";
    pub const IS_NOT_DISTINCT_FROM: &str = "is_not_distinct_from";
    pub const IN: &str = "in";
    pub const NOT_IN: &str = "not_in";
    pub const LIKE: &str = "like";
    pub const NOT_LIKE: &str = "not_like";
    pub const EQ: &str = "=";
    pub const NOT_EQ: &str = "<>";
    pub const LT: &str = "<";
    pub const LT_EQ: &str = "<=";
    pub const GT: &str = ">";
    pub const GT_EQ: &str = ">=";
    pub const PLUS: &str = "+";
    pub const MINUS: &str = "-";
    pub const TIMES: &str = "*";
    pub const DIVIDE: &str = "/";
    pub const MODULO: &str = "%";
    pub const CONCAT: &str = "||";
    /// Division of decimals. It is no identifier, as those below, so that only the operator gives it.
    pub const DECIMAL_DIVIDE: &str = "decimal/";
    /// Sums, differences and products whose digits may be more than a decimal has.
    pub const DECIMAL_PLUS: &str = "decimal+";
    pub const DECIMAL_MINUS: &str = "decimal-";
    pub const DECIMAL_TIMES: &str = "decimal*";
    /// A comparison of decimals whose common type would have more digits than there can be: -1, 0 or 1.
    pub const DECIMAL_COMPARE: &str = "decimal<>";
    /// `array[position]` and `map[key]`.
    pub const ELEMENT: &str = "[]";
    /// Constructors.
    pub const ARRAY: &str = "array";
    pub const MAP: &str = "map";
    pub const ROW: &str = "row";
}

impl Expr {
    /// An input column.
    pub fn column(index: usize) -> Self {
        Expr { node: Some(Node::Column(index as u32)) }
    }

    /// A constant.
    pub fn literal(data_type: DataType, value: Option<Value>) -> Self {
        Expr { node: Some(Node::Literal(Literal { data_type: Some(data_type), value })) }
    }

    /// A function call.
    pub fn call(function: impl Into<String>, arguments: Vec<Expr>) -> Self {
        Expr { node: Some(Node::Call(Call { function: function.into(), arguments })) }
    }

    /// A conversion.
    pub fn cast(expr: Expr, to: DataType, is_try: bool) -> Self {
        Expr { node: Some(Node::Cast(Box::new(Cast { expr: Some(Box::new(expr)), to: Some(to), is_try }))) }
    }

    /// A field of a ROW.
    pub fn field(expr: Expr, field: impl Into<String>) -> Self {
        Expr {
            node: Some(Node::Field(Box::new(FieldAccess {
                expr: Some(Box::new(expr)),
                field: field.into(),
            }))),
        }
    }

    /// The index, if this is nothing but an input column.
    pub fn as_column(&self) -> Option<usize> {
        match self.node {
            Some(Node::Column(index)) => Some(index as usize),
            _ => None,
        }
    }

    /// The first function in it that asks the clock.
    pub fn clock(&self) -> Option<&str> {
        match &self.node {
            Some(Node::Call(call)) if function::CLOCKS.contains(&call.function.as_str()) => {
                Some(&call.function)
            }
            _ => self.children().into_iter().find_map(Expr::clock),
        }
    }

    /// The first function in it that gives another value with each row.
    pub fn chance(&self) -> Option<&str> {
        match &self.node {
            Some(Node::Call(call)) if function::CHANCES.contains(&call.function.as_str()) => {
                Some(&call.function)
            }
            _ => self.children().into_iter().find_map(Expr::chance),
        }
    }

    /// Every sub-expression directly below this one.
    fn children(&self) -> Vec<&Expr> {
        match &self.node {
            None | Some(Node::Column(_) | Node::Literal(_)) => Vec::new(),
            Some(Node::Call(call)) => call.arguments.iter().collect(),
            Some(Node::Cast(cast)) => cast.expr.as_deref().into_iter().collect(),
            Some(Node::Field(access)) => access.expr.as_deref().into_iter().collect(),
            Some(Node::Case(case)) => {
                let branches = case.branches.iter().flat_map(|branch| branch.when.iter().chain(&branch.then));
                let ends = case.operand.as_deref().into_iter().chain(case.otherwise.as_deref());
                branches.chain(ends).collect()
            }
        }
    }

    /// How many levels it has.
    pub fn depth(&self) -> usize {
        1 + self.children().into_iter().map(Expr::depth).max().unwrap_or(0)
    }

    /// Every sub-expression directly below this one.
    pub fn children_mut(&mut self) -> Vec<&mut Expr> {
        match &mut self.node {
            None | Some(Node::Column(_) | Node::Literal(_)) => Vec::new(),
            Some(Node::Call(call)) => call.arguments.iter_mut().collect(),
            Some(Node::Cast(cast)) => cast.expr.as_deref_mut().into_iter().collect(),
            Some(Node::Field(access)) => access.expr.as_deref_mut().into_iter().collect(),
            Some(Node::Case(case)) => {
                let branches =
                    case.branches.iter_mut().flat_map(|b| b.when.iter_mut().chain(b.then.iter_mut()));
                case.operand
                    .as_deref_mut()
                    .into_iter()
                    .chain(branches)
                    .chain(case.otherwise.as_deref_mut())
                    .collect()
            }
        }
    }

    /// If this is a column or a chain of field accesses on one: the column and the field names inwards.
    pub fn as_path(&self) -> Option<(usize, Vec<String>)> {
        match &self.node {
            Some(Node::Column(index)) => Some((*index as usize, Vec::new())),
            Some(Node::Field(access)) => {
                let (column, mut path) = access.expr.as_deref()?.as_path()?;
                path.push(access.field.clone());
                Some((column, path))
            }
            _ => None,
        }
    }
}

impl Default for Value {
    fn default() -> Self {
        Value::Boolean(false)
    }
}

impl Literal {
    /// NULL of a type.
    pub fn null(kind: TypeKind) -> Self {
        Literal { data_type: Some(DataType::simple(kind)), value: None }
    }
}
