"""The paper's tables, alone and beside what was measured."""
