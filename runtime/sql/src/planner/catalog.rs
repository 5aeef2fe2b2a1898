//! The tables and views that a text has declared so far, as DataFusion's planner asks for them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_SCALE, DataType, Field, SchemaRef};
use datafusion_common::{Column, DFSchema, Result, TableReference, plan_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ContextProvider, ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF,
    TableSource, WindowUDF, lit,
};
use sqlparser::ast::BinaryOperator;

use super::casts::short_time;
use super::decimal_arithmetic::times;
use crate::connectors::{self, Role};
use crate::functions;
use crate::plan;

/// Everything declared so far.
pub struct Catalog {
    relations: HashMap<String, Arc<Relation>>,
    tables: HashMap<String, DeclaredTable>,
    expression_planners: Vec<Arc<dyn ExprPlanner>>,
    options: datafusion_common::config::ConfigOptions,
}

/// A table as declared, ready to be a source or a sink.
#[derive(Clone)]
pub struct DeclaredTable {
    pub table: plan::Table,
    pub event_time: Option<EventTime>,
    /// Columns that a sink writes, in the order of their declaration: the physical ones, and METADATA that is not VIRTUAL.
    pub written: Vec<String>,
}

impl DeclaredTable {
    /// The table as a sink: without the options and the metadata that it only reads with.
    pub fn as_sink(&self) -> Self {
        let mut sink = self.clone();
        let is_written = |column: &plan::MetadataColumn| {
            column.field.iter().any(|field| self.written.contains(&field.name))
        };
        sink.table.metadata.retain(is_written);
        sink.table.options = connectors::of_role(&sink.table.options, Role::Sink);
        sink
    }

    /// The columns that are written, in the order of their declaration.
    pub fn written_fields(&self) -> Vec<plan::Field> {
        let given = self.table.given_fields();
        let find = |name: &String| given.iter().find(|field| field.name == *name).cloned();
        self.written.iter().filter_map(find).collect()
    }
}

/// The event time of a table, as expressions over its physical columns.
#[derive(Clone)]
pub struct EventTime {
    pub column: plan::Expr,
    pub watermark: plan::Expr,
}

/// A name in FROM: either the physical columns of a table, or a plan over them.
pub struct Relation {
    schema: SchemaRef,
    plan: Option<LogicalPlan>,
}

impl TableSource for Relation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.plan.as_ref().map(Cow::Borrowed)
    }
}

impl Catalog {
    pub fn new() -> Self {
        let mut options = datafusion_common::config::ConfigOptions::default();
        // Of TIMESTAMP_LTZ, which is a point in time.
        options.execution.time_zone = Some("UTC".to_owned());
        Catalog {
            relations: HashMap::new(),
            tables: HashMap::new(),
            expression_planners: vec![Arc::new(RowFields)],
            options,
        }
    }

    /// True if a table or view has this name.
    pub fn has(&self, name: &str) -> bool {
        self.relations.contains_key(name)
    }

    /// Names of everything that can stand in FROM.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.relations.keys().filter(|name| !name.starts_with("__window_")).cloned().collect();
        names.sort();
        names
    }

    /// A declared table.
    pub fn table(&self, name: &str) -> Option<&DeclaredTable> {
        self.tables.get(name)
    }

    /// The plan that stands for a name in FROM.
    pub fn plan_of(&self, name: &str) -> Result<LogicalPlan> {
        let Some(relation) = self.relations.get(name) else {
            return plan_err!("there is no table or view '{name}'");
        };
        let source: Arc<dyn TableSource> = Arc::clone(relation) as _;
        LogicalPlanBuilder::scan(TableReference::bare(name), source, None)?.build()
    }

    /// The scan of the columns that a table's source gives.
    pub fn scan(table: &plan::Table) -> Result<LogicalPlan> {
        let schema = plan::Schema { fields: table.given_fields() }.to_arrow();
        let source = Arc::new(Relation { schema, plan: None });
        LogicalPlanBuilder::scan(TableReference::bare(table.name.as_str()), source, None)?.build()
    }

    /// Adds a table whose columns, computed ones included, are given by a plan.
    pub fn add_table(&mut self, table: DeclaredTable, plan: LogicalPlan) {
        let name = table.table.name.clone();
        self.tables.insert(name.clone(), table);
        self.add_view(name, plan);
    }

    /// Adds a named plan.
    pub fn add_view(&mut self, name: String, plan: LogicalPlan) {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        self.relations.insert(name, Arc::new(Relation { schema, plan: Some(plan) }));
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.relations.get(name.table()) {
            Some(relation) => Ok(Arc::clone(relation) as Arc<dyn TableSource>),
            None => {
                let names = self.names();
                let name = name.table();
                match crate::similar::closest(name, &names) {
                    Some(similar) => {
                        plan_err!("there is no table or view '{name}'; did you mean `{similar}`?")
                    }
                    None => plan_err!("there is no table or view '{name}'"),
                }
            }
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expression_planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::scalar(name)
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions::aggregates::aggregate(name)
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &datafusion_common::config::ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions::names().map(str::to_owned).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        functions::aggregates::NAMES.map(str::to_owned).to_vec()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Plans `row.field` as our own function, SUBSTRING's special grammar as the function of that name, and products that the planner
/// has no type for.
#[derive(Debug)]
struct RowFields;

impl ExprPlanner for RowFields {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        // The planner asks for the types of both sides at once.
        let RawBinaryExpr { op, left, right } = expr;
        let expr = RawBinaryExpr { op, left: short_time(left).data, right: short_time(right).data };
        let scale = |side: &Expr| match side.get_type(schema) {
            Ok(DataType::Decimal128(_, scale)) => i32::from(scale),
            _ => 0,
        };
        let is_too_long =
            |expr: &RawBinaryExpr| scale(&expr.left) + scale(&expr.right) > i32::from(DECIMAL128_MAX_SCALE);
        if expr.op != BinaryOperator::Multiply || !is_too_long(&expr) {
            return Ok(PlannerResult::Original(expr));
        }
        times(&expr.left, &expr.right, schema).map(PlannerResult::Planned)
    }

    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested: &[String],
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let mut expression = Expr::Column(Column::from((qualifier, field)));
        for name in nested {
            expression = call(functions::FIELD, vec![expression, lit(name.as_str())])?;
        }
        // A field that is selected gives its name to the column.
        Ok(PlannerResult::Planned(match nested.last() {
            Some(name) => expression.alias(name),
            None => expression,
        }))
    }

    fn plan_substring(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(call("substring", arguments)?))
    }
}

fn call(name: &str, arguments: Vec<Expr>) -> Result<Expr> {
    match functions::scalar(name) {
        Some(function) => Ok(Expr::ScalarFunction(ScalarFunction::new_udf(function, arguments))),
        None => plan_err!("there is no function '{name}'"),
    }
}
